"""Ordinary sentences in twelve languages, and a needle, a question about it and its answer in each. All are our own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Language:
    """sentences: one a line. apart: what stands between two. The answer stands in the needle as it is."""

    text: str
    needle: str
    question: str
    answer: str
    apart: str = " "

    @property
    def sentences(self) -> list[str]:
        return [line.strip() for line in self.text.strip().splitlines()]


LANGUAGES = {
    "en": Language(
        """
        The river rises in spring when the snow melts.
        My neighbour plants tomatoes behind the house.
        The train to the coast was late again this morning.
        Nobody knows who built the old stone bridge.
        Children play football in the square after school.
        The baker opens his shop before the sun comes up.
        It rained for three days, and the fields were under water.
        She reads a newspaper while she drinks her coffee.
        The museum is closed on Mondays.
        We walked along the beach until it was dark.
        His grandfather was a fisherman on a small island.
        The library has books in more than forty languages.
        In winter the lake freezes, and people skate on it.
        The teacher asked a question that nobody could answer.
        A cat sleeps on the roof of the old car.
        They sold the farm and moved to the city.
        The market is full of fruit, vegetables and flowers.
        He repaired the clock, but it still runs slow.
        The concert begins at eight o'clock in the town hall.
        Are there any seats left for tomorrow evening?
        The road over the mountain is narrow and steep.
        """,
        "The keeper of the lighthouse hides the silver key under a blue lantern.",
        "Where does the keeper of the lighthouse hide the silver key?",
        "under a blue lantern",
    ),
    "zh": Language(
        """
        春天雪化的时候，河水就会上涨。
        我的邻居在屋子后面种西红柿。
        今天早上开往海边的火车又晚点了。
        没有人知道那座古老的石桥是谁建的。
        放学以后，孩子们在广场上踢足球。
        面包师在太阳升起之前就开门营业。
        雨下了三天，田地全被水淹没了。
        她一边喝咖啡，一边看报纸。
        博物馆星期一不开放。
        我们沿着沙滩一直走到天黑。
        他的爷爷是一个小岛上的渔民。
        图书馆里有四十多种语言的书。
        冬天湖面结冰，人们在上面滑冰。
        老师问了一个谁也答不上来的问题。
        一只猫睡在旧汽车的车顶上。
        他们卖掉农场，搬到了城里。
        市场上摆满了水果、蔬菜和鲜花。
        他修好了钟，可是它还是走得慢。
        音乐会晚上八点在市政厅开始。
        明天晚上还有座位吗？
        翻过那座山的路又窄又陡。
        """,
        "灯塔看守人把银钥匙藏在蓝色灯笼下面。",
        "灯塔看守人把银钥匙藏在哪里？",
        "蓝色灯笼下面",
        "",
    ),
    "ja": Language(
        """
        春になって雪が解けると、川の水かさが増す。
        隣の人は家の裏でトマトを育てている。
        今朝も海岸行きの電車が遅れた。
        あの古い石橋を誰が造ったのかは誰も知らない。
        放課後、子どもたちは広場でサッカーをする。
        パン屋は日が昇る前に店を開ける。
        三日間雨が降り続き、畑は水に浸かった。
        彼女はコーヒーを飲みながら新聞を読む。
        博物館は月曜日が休みだ。
        私たちは暗くなるまで浜辺を歩いた。
        彼の祖父は小さな島の漁師だった。
        図書館には四十以上の言語の本がある。
        冬には湖が凍り、人々がその上でスケートをする。
        先生は誰にも答えられない質問をした。
        古い車の屋根の上で猫が眠っている。
        彼らは農場を売って町へ引っ越した。
        市場には果物や野菜や花があふれている。
        彼は時計を直したが、まだ少し遅れる。
        演奏会は八時に市民会館で始まる。
        明日の夜の席はまだありますか？
        山を越える道は狭くて急だ。
        """,
        "灯台守は銀色の鍵を青いランプの下に隠している。",
        "灯台守は銀色の鍵をどこに隠していますか？",
        "青いランプの下",
        "",
    ),
    "ko": Language(
        """
        봄에 눈이 녹으면 강물이 불어난다.
        내 이웃은 집 뒤에 토마토를 심는다.
        오늘 아침에도 바다로 가는 기차가 늦었다.
        그 오래된 돌다리를 누가 지었는지 아무도 모른다.
        방과 후에 아이들은 광장에서 축구를 한다.
        빵집 주인은 해가 뜨기 전에 가게를 연다.
        사흘 동안 비가 내려서 밭이 물에 잠겼다.
        그녀는 커피를 마시면서 신문을 읽는다.
        박물관은 월요일에 문을 닫는다.
        우리는 어두워질 때까지 해변을 걸었다.
        그의 할아버지는 작은 섬의 어부였다.
        도서관에는 마흔 개가 넘는 언어로 된 책이 있다.
        겨울에는 호수가 얼고 사람들이 그 위에서 스케이트를 탄다.
        선생님은 아무도 대답하지 못할 질문을 했다.
        고양이가 낡은 자동차 지붕 위에서 잔다.
        그들은 농장을 팔고 도시로 이사했다.
        시장에는 과일과 채소와 꽃이 가득하다.
        그는 시계를 고쳤지만 여전히 느리게 간다.
        음악회는 여덟 시에 시청에서 시작한다.
        내일 저녁 자리가 아직 남아 있나요?
        산을 넘는 길은 좁고 가파르다.
        """,
        "등대지기는 은색 열쇠를 파란 등불 아래에 숨긴다.",
        "등대지기는 은색 열쇠를 어디에 숨기나요?",
        "파란 등불 아래",
    ),
    "hi": Language(
        """
        वसंत में जब बर्फ़ पिघलती है, तब नदी का पानी बढ़ जाता है।
        मेरा पड़ोसी घर के पीछे टमाटर उगाता है।
        आज सुबह समुद्र तट की रेलगाड़ी फिर देर से आई।
        कोई नहीं जानता कि पत्थर का पुराना पुल किसने बनाया।
        स्कूल के बाद बच्चे मैदान में फ़ुटबॉल खेलते हैं।
        नानबाई सूरज निकलने से पहले दुकान खोलता है।
        तीन दिन तक बारिश हुई और खेत पानी में डूब गए।
        वह कॉफ़ी पीते हुए अख़बार पढ़ती है।
        संग्रहालय सोमवार को बंद रहता है।
        हम अँधेरा होने तक किनारे पर टहलते रहे।
        उसके दादा एक छोटे द्वीप पर मछुआरे थे।
        पुस्तकालय में चालीस से अधिक भाषाओं की किताबें हैं।
        सर्दियों में झील जम जाती है और लोग उस पर स्केटिंग करते हैं।
        शिक्षक ने ऐसा सवाल पूछा जिसका जवाब कोई नहीं दे सका।
        पुरानी कार की छत पर एक बिल्ली सोती है।
        उन्होंने खेत बेच दिया और शहर चले गए।
        बाज़ार फलों, सब्ज़ियों और फूलों से भरा है।
        उसने घड़ी ठीक की, पर वह अब भी धीमी चलती है।
        संगीत कार्यक्रम आठ बजे नगर भवन में शुरू होता है।
        क्या कल शाम के लिए कोई सीट बची है?
        पहाड़ के पार जाने वाली सड़क सँकरी और खड़ी है।
        """,
        "प्रकाशस्तंभ का रखवाला चाँदी की चाबी नीली लालटेन के नीचे छिपाता है।",
        "प्रकाशस्तंभ का रखवाला चाँदी की चाबी कहाँ छिपाता है?",
        "नीली लालटेन के नीचे",
    ),
    "ur": Language(
        """
        بہار میں جب برف پگھلتی ہے تو دریا کا پانی چڑھ جاتا ہے۔
        میرا پڑوسی گھر کے پیچھے ٹماٹر اگاتا ہے۔
        آج صبح ساحل جانے والی ریل گاڑی پھر دیر سے آئی۔
        کوئی نہیں جانتا کہ پتھر کا پرانا پل کس نے بنایا۔
        اسکول کے بعد بچے میدان میں فٹ بال کھیلتے ہیں۔
        نانبائی سورج نکلنے سے پہلے دکان کھولتا ہے۔
        تین دن تک بارش ہوئی اور کھیت پانی میں ڈوب گئے۔
        وہ کافی پیتے ہوئے اخبار پڑھتی ہے۔
        عجائب گھر پیر کو بند رہتا ہے۔
        ہم اندھیرا ہونے تک ساحل پر چلتے رہے۔
        اس کے دادا ایک چھوٹے جزیرے پر ماہی گیر تھے۔
        کتب خانے میں چالیس سے زیادہ زبانوں کی کتابیں ہیں۔
        سردیوں میں جھیل جم جاتی ہے اور لوگ اس پر پھسلتے ہیں۔
        استاد نے ایسا سوال پوچھا جس کا جواب کوئی نہ دے سکا۔
        پرانی گاڑی کی چھت پر ایک بلی سوتی ہے۔
        انہوں نے کھیت بیچ دیا اور شہر چلے گئے۔
        بازار پھلوں، سبزیوں اور پھولوں سے بھرا ہوا ہے۔
        اس نے گھڑی ٹھیک کی لیکن وہ اب بھی سست چلتی ہے۔
        موسیقی کی محفل آٹھ بجے ٹاؤن ہال میں شروع ہوتی ہے۔
        کیا کل شام کے لیے کوئی نشست باقی ہے؟
        پہاڑ کے پار جانے والی سڑک تنگ اور ڈھلوان ہے۔
        """,
        "مینار کا رکھوالا چاندی کی چابی نیلی لالٹین کے نیچے چھپاتا ہے۔",
        "مینار کا رکھوالا چاندی کی چابی کہاں چھپاتا ہے؟",
        "نیلی لالٹین کے نیچے",
    ),
    "bn": Language(
        """
        বসন্তে বরফ গললে নদীর জল বেড়ে যায়।
        আমার প্রতিবেশী বাড়ির পেছনে টমেটো চাষ করেন।
        আজ সকালে উপকূলের ট্রেন আবার দেরিতে এসেছে।
        পুরোনো পাথরের সেতুটি কে তৈরি করেছিল কেউ জানে না।
        স্কুলের পরে বাচ্চারা মাঠে ফুটবল খেলে।
        রুটিওয়ালা সূর্য ওঠার আগেই দোকান খোলেন।
        তিন দিন ধরে বৃষ্টি হয়েছিল, আর খেত জলে ডুবে গিয়েছিল।
        সে কফি খেতে খেতে খবরের কাগজ পড়ে।
        জাদুঘর সোমবারে বন্ধ থাকে।
        অন্ধকার হওয়া পর্যন্ত আমরা সমুদ্রতীরে হেঁটেছিলাম।
        তার দাদু একটি ছোট দ্বীপের জেলে ছিলেন।
        গ্রন্থাগারে চল্লিশটিরও বেশি ভাষার বই আছে।
        শীতকালে হ্রদ জমে যায় এবং লোকেরা তার উপর স্কেটিং করে।
        শিক্ষক এমন একটি প্রশ্ন করলেন যার উত্তর কেউ দিতে পারল না।
        পুরোনো গাড়ির ছাদে একটি বিড়াল ঘুমায়।
        তারা খামার বিক্রি করে শহরে চলে গেল।
        বাজার ফল, সবজি আর ফুলে ভরা।
        সে ঘড়িটি সারিয়েছে, কিন্তু এখনও সেটি ধীরে চলে।
        গানের অনুষ্ঠান আটটায় পৌর ভবনে শুরু হয়।
        কাল সন্ধ্যার জন্য কোনো আসন বাকি আছে কি?
        পাহাড়ের ওপারের রাস্তা সরু আর খাড়া।
        """,
        "বাতিঘরের রক্ষক রুপোর চাবিটি নীল লণ্ঠনের নিচে লুকিয়ে রাখেন।",
        "বাতিঘরের রক্ষক রুপোর চাবিটি কোথায় লুকিয়ে রাখেন?",
        "নীল লণ্ঠনের নিচে",
    ),
    "th": Language(
        """
        เมื่อหิมะละลายในฤดูใบไม้ผลิ น้ำในแม่น้ำก็จะสูงขึ้น
        เพื่อนบ้านของฉันปลูกมะเขือเทศไว้หลังบ้าน
        เช้านี้รถไฟไปชายทะเลมาสายอีกแล้ว
        ไม่มีใครรู้ว่าใครสร้างสะพานหินเก่าแก่แห่งนั้น
        หลังเลิกเรียน เด็กๆ เล่นฟุตบอลกันที่ลานกว้าง
        คนทำขนมปังเปิดร้านก่อนพระอาทิตย์ขึ้น
        ฝนตกสามวันติดกัน ไร่นาจมอยู่ใต้น้ำ
        เธออ่านหนังสือพิมพ์ขณะดื่มกาแฟ
        พิพิธภัณฑ์ปิดทุกวันจันทร์
        เราเดินเล่นริมหาดจนฟ้ามืด
        ปู่ของเขาเป็นชาวประมงบนเกาะเล็กๆ
        ห้องสมุดมีหนังสือมากกว่าสี่สิบภาษา
        ในฤดูหนาวทะเลสาบกลายเป็นน้ำแข็ง และผู้คนไปเล่นสเกตบนนั้น
        ครูถามคำถามที่ไม่มีใครตอบได้
        แมวตัวหนึ่งนอนอยู่บนหลังคารถเก่า
        พวกเขาขายไร่แล้วย้ายเข้าเมือง
        ตลาดเต็มไปด้วยผลไม้ ผัก และดอกไม้
        เขาซ่อมนาฬิกาแล้ว แต่มันยังเดินช้า
        คอนเสิร์ตเริ่มเวลาสองทุ่มที่ศาลากลาง
        คืนพรุ่งนี้ยังมีที่นั่งเหลืออยู่ไหม
        ถนนข้ามภูเขานั้นแคบและชัน
        """,
        "ผู้เฝ้าประภาคารซ่อนกุญแจเงินไว้ใต้ตะเกียงสีฟ้า",
        "ผู้เฝ้าประภาคารซ่อนกุญแจเงินไว้ที่ไหน",
        "ใต้ตะเกียงสีฟ้า",
    ),
    "ar": Language(
        """
        يرتفع النهر في الربيع عندما يذوب الثلج.
        يزرع جاري الطماطم خلف البيت.
        تأخر القطار المتجه إلى الساحل مرة أخرى هذا الصباح.
        لا أحد يعرف من بنى الجسر الحجري القديم.
        يلعب الأطفال كرة القدم في الساحة بعد المدرسة.
        يفتح الخباز دكانه قبل شروق الشمس.
        هطل المطر ثلاثة أيام، وغرقت الحقول في الماء.
        تقرأ الجريدة وهي تشرب قهوتها.
        المتحف مغلق يوم الاثنين.
        مشينا على الشاطئ حتى حل الظلام.
        كان جده صيادا في جزيرة صغيرة.
        في المكتبة كتب بأكثر من أربعين لغة.
        تتجمد البحيرة في الشتاء ويتزلج الناس عليها.
        طرح المعلم سؤالا لم يستطع أحد أن يجيب عنه.
        تنام قطة على سطح السيارة القديمة.
        باعوا المزرعة وانتقلوا إلى المدينة.
        السوق مليء بالفواكه والخضروات والزهور.
        أصلح الساعة، لكنها ما زالت بطيئة.
        تبدأ الحفلة الموسيقية في الثامنة في قاعة البلدية.
        هل بقيت مقاعد لمساء الغد؟
        الطريق عبر الجبل ضيق وشديد الانحدار.
        """,
        "يخفي حارس المنارة المفتاح الفضي تحت فانوس أزرق.",
        "أين يخفي حارس المنارة المفتاح الفضي؟",
        "تحت فانوس أزرق",
    ),
    "ru": Language(
        """
        Весной, когда тает снег, река поднимается.
        Мой сосед выращивает помидоры за домом.
        Сегодня утром поезд к морю опять опоздал.
        Никто не знает, кто построил старый каменный мост.
        После школы дети играют на площади в футбол.
        Пекарь открывает лавку ещё до восхода солнца.
        Три дня шёл дождь, и поля оказались под водой.
        Она читает газету и пьёт кофе.
        По понедельникам музей закрыт.
        Мы гуляли по берегу, пока не стемнело.
        Его дед был рыбаком на маленьком острове.
        В библиотеке есть книги более чем на сорока языках.
        Зимой озеро замерзает, и люди катаются на коньках.
        Учитель задал вопрос, на который никто не смог ответить.
        На крыше старой машины спит кошка.
        Они продали ферму и переехали в город.
        На рынке много фруктов, овощей и цветов.
        Он починил часы, но они всё равно отстают.
        Концерт начинается в восемь часов в ратуше.
        Остались ли места на завтрашний вечер?
        Дорога через гору узкая и крутая.
        """,
        "Смотритель маяка прячет серебряный ключ под синим фонарём.",
        "Где смотритель маяка прячет серебряный ключ?",
        "под синим фонарём",
    ),
    "de": Language(
        """
        Der Fluss steigt im Frühling, wenn der Schnee schmilzt.
        Mein Nachbar baut hinter dem Haus Tomaten an.
        Der Zug an die Küste hatte heute Morgen wieder Verspätung.
        Niemand weiß, wer die alte Steinbrücke gebaut hat.
        Nach der Schule spielen die Kinder auf dem Platz Fußball.
        Der Bäcker öffnet seinen Laden vor Sonnenaufgang.
        Es regnete drei Tage lang, und die Felder standen unter Wasser.
        Sie liest die Zeitung und trinkt dabei Kaffee.
        Das Museum ist montags geschlossen.
        Wir gingen am Strand entlang, bis es dunkel war.
        Sein Großvater war Fischer auf einer kleinen Insel.
        Die Bibliothek hat Bücher in mehr als vierzig Sprachen.
        Im Winter friert der See zu, und die Leute laufen darauf Schlittschuh.
        Der Lehrer stellte eine Frage, die niemand beantworten konnte.
        Auf dem Dach des alten Autos schläft eine Katze.
        Sie verkauften den Hof und zogen in die Stadt.
        Der Markt ist voller Obst, Gemüse und Blumen.
        Er hat die Uhr repariert, aber sie geht immer noch nach.
        Das Konzert beginnt um acht Uhr im Rathaus.
        Gibt es noch Plätze für morgen Abend?
        Die Straße über den Berg ist schmal und steil.
        """,
        "Der Leuchtturmwärter versteckt den silbernen Schlüssel unter einer blauen Laterne.",
        "Wo versteckt der Leuchtturmwärter den silbernen Schlüssel?",
        "unter einer blauen Laterne",
    ),
    "fr": Language(
        """
        La rivière monte au printemps quand la neige fond.
        Mon voisin cultive des tomates derrière la maison.
        Le train pour la côte était encore en retard ce matin.
        Personne ne sait qui a construit le vieux pont de pierre.
        Après l'école, les enfants jouent au football sur la place.
        Le boulanger ouvre sa boutique avant le lever du soleil.
        Il a plu pendant trois jours, et les champs étaient sous l'eau.
        Elle lit le journal en buvant son café.
        Le musée est fermé le lundi.
        Nous avons marché sur la plage jusqu'à la nuit.
        Son grand-père était pêcheur sur une petite île.
        La bibliothèque a des livres dans plus de quarante langues.
        En hiver, le lac gèle et les gens y font du patin.
        Le professeur a posé une question à laquelle personne n'a su répondre.
        Un chat dort sur le toit de la vieille voiture.
        Ils ont vendu la ferme et sont partis vivre en ville.
        Le marché est plein de fruits, de légumes et de fleurs.
        Il a réparé l'horloge, mais elle retarde encore.
        Le concert commence à huit heures à la mairie.
        Reste-t-il des places pour demain soir ?
        La route de la montagne est étroite et raide.
        """,
        "Le gardien du phare cache la clé d'argent sous une lanterne bleue.",
        "Où le gardien du phare cache-t-il la clé d'argent ?",
        "sous une lanterne bleue",
    ),
}
